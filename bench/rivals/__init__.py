"One file for each library of the scoreboard: each job as that library's own documentation does it."
LIBRARIES = {  # name on the page: file
    "ft_tutorial": "ours", "PyTorch": "pytorch", "fastai": "fastai", "Keras": "keras", "Lightning": "lightning",
    "finetuning-scheduler": "finetuning_scheduler", "skorch": "skorch", "pytorch-accelerated": "pytorch_accelerated",
    "timm": "timm", "peft": "peft"}
JOBS = {
    "still": "20 steps with everything trainable, the body frozen, 20 steps: is the body the same, bit for bit?",
    "nothing": "the body has no parameter, so that there is nothing to freeze: is that an error?",
    "typo": "what is to be frozen is misspelt, or out of range: is that an error?",
    "seen": "can one see what is frozen, and whether its statistics still move?",
    "undo": "frozen and undone: is everything as before?",
    "resume": "killed in epoch 3 of 5 and called again: the same weights as without the kill?",
    "epoch": "time and memory of a frozen epoch, beside plain PyTorch by hand",
}
