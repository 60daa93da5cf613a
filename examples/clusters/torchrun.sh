#!/bin/bash
# On each machine, all with the same address of one of them: examples/clusters/torchrun.sh ADDRESS MACHINES RECIPE [--init WEIGHTS]
# The recipe's folders and runs/ lie where all machines see them.
set -euo pipefail
address=$1 machines=$2
shift 2
export OMP_NUM_THREADS=1      # workers that read pictures have a core each
exec torchrun --nnodes="$machines" --nproc-per-node=gpu --rdzv-id=compressai-gen --rdzv-backend=c10d \
    --rdzv-endpoint="$address:29500" -m compressai_gen.train "$@"
