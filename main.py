"""Runs the ILIAS benchmark.

python main.py --config configs/demo.py [--workdir DIR] [--config.search.k=100] [--distributed]
"""

from absl import flags
from etils import epath

from ilias_jax import benchmark, front, manifest, recipes

_CONFIG, _WORKDIR = front.define_flags()
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other hosts (jax.distributed).")
# Cloud TPUs and Slurm fill these three in by themselves.
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of the first process.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")


def main(argv: list[str]) -> None:
    recipes.refuse_words(argv[1:])
    config = recipes.read_recipe(_CONFIG)
    workdir = epath.Path(_WORKDIR.value or front.default_workdir())
    if _DISTRIBUTED.value:
        front.join_hosts(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    front.keep_compilations()
    machine = manifest.machine()
    model = config.model.name or config.model.factory
    print(f"{model} on {config.dataset.name}; {machine['devices']}; {workdir}")
    document = benchmark.run(config, workdir)
    if document is not None:
        print(front.summarize(document, str(workdir)))


if __name__ == "__main__":
    front.run(main)
