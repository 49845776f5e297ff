"""Ways to reach a machine: this one, or another by SSH."""
