#!/usr/bin/env bash
# A search on machines that Slurm lends: starts Ray on all of them, runs tune_mmnet.py on the first, ends Ray. In the project's folder,
# which all machines must see (the usual home or project space of a Slurm site), after `MMNET_CLUSTER=1 bash setup.sh` on one of them:
#
#   mkdir -p logs && sbatch clusters/slurm.sh --data ~/BreaKHis_v1 --trials 200
#
# All arguments go to tune_mmnet.py. The search stops itself ten minutes before the time is up, so that its report is written;
# `sbatch clusters/slurm.sh --resume` goes on with it.

#SBATCH --job-name=mmnet-tune        # shown by squeue
#SBATCH --nodes=4                    # machines; the first one also runs the search itself
#SBATCH --ntasks-per-node=1          # one Ray a machine; it divides the machine among trials
#SBATCH --exclusive                  # no other job of yours on these machines: Ray's end there would end its Ray too
#SBATCH --gpus-per-node=1            # GPUs of each machine
#SBATCH --cpus-per-task=8            # cores of each machine
#SBATCH --mem=0                      # all of each machine's memory
#SBATCH --time=12:00:00              # longest time
#SBATCH --output=logs/%x-%j.log      # what the search prints, by name and number of the job

set -euo pipefail                    # any error ends the job
cd "${SLURM_SUBMIT_DIR:-.}"          # the project's folder, where sbatch was called
source .venv/bin/activate            # python and ray of the pinned requirements

export RAY_AUTH_MODE=token           # who has no token gets no answer, also none of the other users of these machines
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/mmnet-tune-$SLURM_JOB_ID" # a secret for this job alone, which all machines can read
export RAY_USAGE_STATS_ENABLED=0     # nothing is reported to Ray's makers
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300 # seconds in which all machines must have joined

begun="$RAY_AUTH_TOKEN_PATH.begun"   # made when the search begins
trap 'rm -f "$RAY_AUTH_TOKEN_PATH" "$begun"' EXIT # the secret ends with the job
mkdir -p "$HOME/.ray"
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH") # readable by you only

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p) # the first machine, by name
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{ print $1 }') # and by address
port=$((20000 + SLURM_JOB_ID % 10000)) # one of its own, should the machine be shared after all; Ray keeps 10002 to 19999 for workers

budget=() # where Slurm says when the job will be ended (22.05 or newer): stop ten minutes before, or half-way in a shorter job
if [ -n "${SLURM_JOB_END_TIME:-}" ]; then
  left=$((SLURM_JOB_END_TIME - $(date +%s)))
  budget=(--time-budget "$((left > 1200 ? left - 600 : left / 2))s")
fi

# On every machine the same command: Ray starts, the first one waits for all others and then runs what stands after `--`;
# when that ends, Ray is ended everywhere. The dashboard listens on the first machine's loopback only.
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  ray symmetric-run --address "$address:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --dashboard-host=127.0.0.1 -- \
  bash -c 'touch "$0" && exec python tune_mmnet.py "$@"' "$begun" --address "$address:$port" "${budget[@]}" "$@"

# `ray symmetric-run` reports success also when Ray did not start
[ -e "$begun" ] || { echo "slurm.sh: Ray did not start, see above; run it again" >&2; exit 1; }
