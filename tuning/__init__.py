"""The only room that knows Ray: searcher, scheduler, trainable, cluster, study."""

import os
import sys
from pathlib import Path

# read by Ray when it is imported; one line here instead of its 550 lines of chatter for a small study
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # our records and TensorBoard files replace them
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # the study stops itself, so that it can say how to go on
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a trial that failed has no score, and says why instead
os.environ.setdefault(
    "TUNE_GLOBAL_CHECKPOINT_S", str(10**9)
)  # its snapshots grow with the study, and nothing reads them: --resume goes by our records
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
# the history of all calls that the dashboard shows: 26 MB of memory per 1,000 trials
os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
# idle processes from the start, one a core: 70 MB and 0.7 s of CPU each, and no trial could take one, as Tune's actors have an environment
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the default to be in later releases, silences its warning

# a cluster's head that finds Ray's token asks for it; a driver that joins sends it only when told to before ray is imported
TOKEN_FILE = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
if "ray" not in sys.modules and (os.environ.get("RAY_AUTH_TOKEN") or TOKEN_FILE.is_file()):
    os.environ.setdefault("RAY_AUTH_MODE", "token")
