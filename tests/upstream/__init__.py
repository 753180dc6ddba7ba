"""SQLAlchemy's own tests of QueuePool, run with another pool in its place.

The tests are not part of this repository: they come from the source
distribution of the SQLAlchemy that is installed, at run time.
"""
