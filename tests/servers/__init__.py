"""Database servers that the tests start, and that end with them.

Nothing here needs more than the standard library.
"""

from .haproxy import HAProxy as HAProxy
from .mariadb import MariaDB as MariaDB
from .pgbouncer import PgBouncer as PgBouncer
from .postgresql import PostgreSQL as PostgreSQL
from .process import ServerError as ServerError
