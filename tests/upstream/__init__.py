"""SQLAlchemy's own tests, run with another pool in QueuePool's place.

The tests are not part of this repository: they come from the source
distribution of the SQLAlchemy that is installed, at run time.
"""
