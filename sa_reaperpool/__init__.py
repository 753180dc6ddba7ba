"""A connection pool for SQLAlchemy that looks after its connections."""

from .engine_block import with_connection
from .errors import CheckoutTimeout
from .errors import ConnectionReclaimed
from .errors import CreatorError
from .errors import JoinEnded
from .errors import JoinError
from .errors import JoinOrder
from .errors import JoinRefused
from .errors import NotCheckedOut
from .errors import NotOwner
from .errors import PoolDeadlock
from .errors import PoolShutdown
from .errors import ProvisionalCommitLost
from .errors import ReservationError
from .errors import TooManyWaiting
from .labels import label
from .lease import HolderInfo
from .lease import LeaseInfo
from .middleware import ReleaseConnections
from .pool import ReaperPool
from .report import report
from .report import report_on_signal
from .reservation import release_connections
from .stats import Stats
from .status import status_app
from .wrapper import Wrapper

__version__ = "0.1.0"

__all__ = (
    "CheckoutTimeout",
    "ConnectionReclaimed",
    "CreatorError",
    "HolderInfo",
    "JoinEnded",
    "JoinError",
    "JoinOrder",
    "JoinRefused",
    "LeaseInfo",
    "NotCheckedOut",
    "NotOwner",
    "PoolDeadlock",
    "PoolShutdown",
    "ProvisionalCommitLost",
    "ReaperPool",
    "ReleaseConnections",
    "ReservationError",
    "Stats",
    "TooManyWaiting",
    "Wrapper",
    "__version__",
    "label",
    "release_connections",
    "report",
    "report_on_signal",
    "status_app",
    "with_connection",
)
