"""All that can befall a pool, at once, and a ledger that must come out right.

::

    python -m benchmarks.torture                    # a server of its own
    python -m benchmarks.torture --seconds 600 --threads 32 --seed 11
    python -m benchmarks.torture URL                # what a client can cause

Threads move money between accounts, through ORM sessions and one pool.
Meanwhile backends are terminated, the server is killed and started again, a
relay between the two cuts, holds back and delays, threads die with a
connection in hand, the process forks, and the pool is reconfigured and
refreshed.  Each transfer is written into a journal outside of the database
before and after its COMMIT; afterwards journal and ledger are compared.

To be read in this order: ``__main__`` (what is asked and answered), ``run``
(one pool's run), ``workers`` (who uses the pool), ``faults`` (who disturbs
them), ``relay`` (the network between), ``journal`` and ``ledger`` (what is
written down on either side), ``accounting`` (how the two compare).
"""
