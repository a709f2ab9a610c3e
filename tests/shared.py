"""What several files of tests need."""

from torch import nn

# The paper's setting: savings in % by first layer and 1, 2, 3, 4, 5, 6 and 10 epochs at each layer.
# Computed before the script was written, without the projector.
PAPER_SAVINGS = {
    1: (18.3, 36.7, 53.7, 63.5, 69.3, 73.2, 81.1),
    8: (12.4, 24.8, 37.2, 47.0, 52.9, 56.8, 64.6),
    14: (8.3, 16.5, 24.8, 32.9, 38.8, 42.7, 50.5),
    20: (4.9, 9.9, 14.8, 19.7, 24.7, 28.6, 36.4),
    25: (2.8, 5.6, 8.5, 11.3, 14.1, 16.9, 24.7),
}


class Layer(nn.Module):
    """A layer that computes what a function says."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


def built(spec):
    """A run in this process alone, ready for its first step."""
    from leapcore.distributed.ranks import join
    from leapcore.train.build import build

    return build(spec, join())


def events_for(listener):
    """Events of a loop by itself, passed on to one listener."""
    from leapcore.plugins.dispatch import Events

    class OneListener(Events):
        def _call(self, event, /, **facts):
            getattr(listener, f"leapcore_{event}")(**facts)

    return OneListener()
