"What the index says of people who come from other libraries, on their own classes."
import pytest
import torch

from ft_tutorial import freeze, moved, status


def train(model, steps=3):
    "A plain loop, with weight decay, momentum and dropout."
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    model.train()
    for step in range(steps):
        tokens = torch.randint(0, 20, (4, 6), generator=torch.Generator().manual_seed(step))
        model(input_ids=tokens, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture
def model():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                     intermediate_size=32, max_position_embeddings=8, num_labels=2)
    return transformers.BertForSequenceClassification(config)


def test_freezing_the_base_model_of_a_transformer(model):
    freeze(model, model.base_model)
    with moved(model) as movement:
        train(model)
    movement.check()
    assert not any(p.requires_grad for p in model.base_model.parameters())
    assert {c.name for c in movement.changes.values() if c.state == "moved"} == {"classifier.weight", "classifier.bias"}


def test_the_control_moves_the_base_model(model):
    with moved(model) as movement:
        train(model)
    with pytest.raises(AssertionError):
        movement.check("bert")


def test_status_counts_as_peft_prints(model, capsys):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"], r=2))
    adapted.print_trainable_parameters()
    counts = [sum(row[key] for row in status(adapted).rows) for key in ("trainable", "parameters")]
    printed = capsys.readouterr().out
    assert f"trainable params: {counts[0]:,} || all params: {counts[1]:,}" in printed
    assert 0 < counts[0] < counts[1]


def test_all_of_it_cannot_be_frozen(model):
    with pytest.raises(ValueError, match="everything"):
        freeze(model, "bert|classifier")
