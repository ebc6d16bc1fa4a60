"What an editor must mark: `test_types.py` expects an error in every line that ends in `# wrong`, and in no other."
from fastai.learner import Learner

from ft_tutorial import (
    Movement, Phase, Plan, Run, describe_run, fine_tune, freeze, look_up, name_run, split_by, status)


def mistakes(learner: Learner, movement: Movement, made: Plan) -> None:
    freeze(learner, 3.5)  # wrong
    freeze("model.pth")  # wrong
    freeze(learner, batchnom="train")  # wrong
    status(learner).okay  # wrong
    split_by(0, 1)  # wrong
    Phase(1)  # wrong
    fine_tune(learner, "3")  # wrong
    movement.chek()  # wrong
    movement["0.weight"].moved  # wrong
    made.rate  # wrong
    name_run(Run(task_same="no"))  # wrong
    look_up(1)  # wrong
    describe_run(movement, tasksame=True)  # wrong
    describe_run(movement, task_same="yes")  # wrong
