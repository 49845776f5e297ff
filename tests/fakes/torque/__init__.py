"""The commands of Torque 6.1.3."""
