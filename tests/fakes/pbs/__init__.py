"""The commands of OpenPBS 23.06.06, and what Torque's have in common with them.

Besides the engine's settings there are ``FAKE_ENFORCE=mem`` (memory limits are enforced) and
``FAKE_PBS_QSTAT=master`` (qstat prints the JSON of the next release, without the defects of 23.06).
"""
