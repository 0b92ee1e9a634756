"""What a worker is asked, in a module that it can import."""


def packed(model):
    names = [n for n, _ in model.named_parameters()]
    return sum(n.endswith("_packed") for n in names), sum(
        p.numel() * p.element_size() for n, p in model.named_parameters()
    )
