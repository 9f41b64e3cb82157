#!/bin/bash
# Fine-tuning with SSL on several nodes under Slurm: sbatch recipes/nodes/slurm.sh
# A job whose time is nearly up saves its state and is queued again; the same command then goes on where it was, with
# as many processes as it is given then. Set MODEL, ARCH, DATA and OUT; OUT is on a file system that all nodes see.
#SBATCH --job-name sslcli
#SBATCH --nodes 2
#SBATCH --ntasks-per-node 1
#SBATCH --gpus-per-node 8
#SBATCH --time 04:00:00
#SBATCH --signal B:TERM@300
#SBATCH --requeue
set -u

host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
launch=(torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8
    --rdzv-backend c10d --rdzv-endpoint "$host:29500" --rdzv-id "$SLURM_JOB_ID")

# Exit 8 here: the nodes do not reach each other; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME choose the network.
srun "${launch[@]}" -m sslcli doctor --distributed || exit

# SIGTERM reaches the batch script five minutes before the end; srun hands it on, every process stops after its step.
srun "${launch[@]}" -m sslcli regularize "$MODEL" --arch "$ARCH" --data "$DATA" --device cuda -b 1024 \
    --structure filter=0.01 --structure channel=0.01 --epochs 60 --save-every-s 300 -o "$OUT" &
run=$!
trap 'kill -TERM $run; wait $run; scontrol requeue "$SLURM_JOB_ID"' TERM
wait $run
