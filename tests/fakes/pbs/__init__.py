"""The commands of OpenPBS 23.06.06, and what Torque's have in common with them."""
