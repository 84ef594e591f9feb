# Read by every shell on a node of the cluster, through a line in ~/.bashrc: `ray up`, `ray exec` and `ray submit` run what they run
# in a login shell, which knows nothing of the environment that setup.sh made.
export PATH="$HOME/mmnet-tune/.venv/bin:$PATH" # python and ray of the pinned requirements
export PYTHONPATH="$HOME/mmnet-tune"           # `ray submit` copies a script to ~ and starts it there, away from its modules
export RAY_AUTH_MODE=token                     # send the token in ~/.ray/auth_token with every request
export RAY_USAGE_STATS_ENABLED=0               # nothing is reported to Ray's makers
