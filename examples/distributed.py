"""The same `fine_tune` call in several processes: each trains on its share of the items, and all end with the same weights.

With several GPUs:

    accelerate launch --multi_gpu --num_processes 2 examples/distributed.py --checkpoint run.pt

On the CPU (accelerate's own --cpu starts one process only):

    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 examples/distributed.py --checkpoint run.pt

On several machines, start it on each, and add --num_machines, --machine_rank, --main_process_ip and
--main_process_port. The first process writes the checkpoint, in a folder that all of them can read. Started again
after a crash, the run goes on.
"""
import argparse
import os
import sys

import torch
from fastai.callback.progress import ProgressCallback  # noqa: F401 (gives Learner no_bar)
from fastai.distributed import rank0_first, teardown_distrib
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.torch_core import num_distrib, params, rank_distrib

from ft_tutorial.finetuning import fine_tune
from ft_tutorial.materials import kana_dls, pretrain_katakana, small_cnn


def body_and_head(model):
    return [params(model[0]), params(model[1])]


def same_in_all_processes(model):
    "Do all processes hold the first one's weights, bit for bit?"
    mine = torch.cat([value.flatten().double() for value in model.state_dict().values()])
    first = mine.clone()
    if num_distrib() > 1:
        torch.distributed.broadcast(first, 0)
    found = [None] * max(num_distrib(), 1)
    found[0] = mine.equal(first)
    if num_distrib() > 1:
        torch.distributed.all_gather_object(found, mine.equal(first))
    return all(found)


def main(epochs, checkpoint):
    model = rank0_first(pretrain_katakana, progress=False)
    model[1] = small_cnn(seed=0)[1]  # a new head, the same in all processes
    dls = kana_dls("hiragana", families=10, batch_size=32)
    learner = Learner(dls, model, splitter=body_and_head, metrics=accuracy)
    with learner.no_bar(), learner.distrib_ctx(in_notebook=False, sync_bn=torch.cuda.is_available()):
        fine_tune(learner, epochs, base_lr=1e-2, checkpoint=checkpoint)
    same = "the same weights in all" if same_in_all_processes(learner.model) else "DIFFERENT WEIGHTS"
    if not rank_distrib():
        print(f"{max(num_distrib(), 1)} processes, {same}; "
              f"accuracy on unseen font families {learner.final_record[-1]:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--checkpoint", help="file to write after each epoch, and to go on from")
    main(**vars(parser.parse_args()))
    if num_distrib() > 1:
        torch.distributed.barrier()  # no process leaves while another still talks to it
    teardown_distrib()
    sys.stdout.flush()
    os._exit(0)  # the interpreter's own end may wait for ever for a thread of torch.distributed
