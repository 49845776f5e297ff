"""Estimate pi from random points; the seed is the first argument."""

import random
import sys

seed = int(sys.argv[1])
points = 1_000_000
chance = random.Random(seed)
inside = sum(chance.random() ** 2 + chance.random() ** 2 < 1 for _ in range(points))
print(f"seed {seed}: pi is about {4 * inside / points:.5f}")
with open("estimate.csv", "w") as file:
    file.write(f"{seed},{points},{inside}\n")
