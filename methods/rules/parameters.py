"""Words and names that parameters are drawn from."""

from narrowgauge.train.tasks import Draws

_NAMES = "Alice Bob Carol Dave Erin Frank Grace Henry Ivy Jack Kate Leo"
_WORDS = """
amber anchor apple basil beacon cactus candle cedar cobalt comet coral crystal dragon ember falcon feather fern garnet
ginger glacier harbor hazel indigo ivory jasmine juniper kernel lagoon lantern lemon lilac magnet maple marble meadow
nectar nutmeg oasis opal orchid otter pebble pepper pilot plasma quartz raven ribbon saffron sapphire scarlet silver
sparrow sunset tulip velvet violet walnut willow zephyr
"""
_ANIMALS = "bear bee cat cow dog duck frog goat hen horse lion mouse owl pig seal sheep snake wolf"
_SOUNDS = "baa bark boo buzz caw cluck coo croak growl hiss hoot howl meow moo neigh oink quack ribbit"

NAMES, WORDS = tuple(_NAMES.split()), tuple(_WORDS.split())
ANIMALS, SOUNDS = tuple(_ANIMALS.split()), tuple(_SOUNDS.split())
ACTIONS = ("bow", "clap", "hop", "jump", "nod", "sit down", "spin", "stand up", "touch your nose", "wave")


def secret(draws: Draws) -> str:
    """A word, as a secret, key or password."""
    return draws.choice(WORDS)
