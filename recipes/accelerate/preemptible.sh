#!/usr/bin/env bash
# `accelerate launch` for jobs that a queue ends by SIGTERM: the run saves a checkpoint, and the exit code is 0.
#     bash recipes/accelerate/preemptible.sh --config_file recipes/accelerate/ddp.yaml -m medvlm_r1 train grpo --config recipes/paper.yaml
# By itself PyTorch's launcher answers SIGTERM by killing the processes after 30 seconds, and exits with 1. Here the
# launcher ignores SIGTERM, and its processes receive it from this script. They finish the step, save and exit with 0.
# Run the same line again to resume.
export PET_SIGNALS_TO_HANDLE=SIGINT,SIGHUP,SIGQUIT # PyTorch's default without SIGTERM
(
    trap '' TERM
    exec accelerate launch "$@"
) &
launcher=$!
trap 'pkill -TERM -P "$launcher"' TERM
code=143
# A trapped signal ends `wait` early, with this code.
while [ "$code" -eq 143 ]; do
    wait "$launcher"
    code=$?
done
exit "$code"
