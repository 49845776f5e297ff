"""The commands of Torque 6.1.3; the file ``trqauthd`` in the spool says that the daemon of that name is down."""
