"""One suite of scenarios that every backend has to pass, for any resource of a configuration.

Needs pytest::

    pytest --pyargs batchlib.conformance --resource cluster

runs it on the resource ``cluster``; ``--resource`` may be given several times, ``--batchlib-config FILE`` names a
configuration. It submits some sixty small jobs, and prints a table at its end.
"""
