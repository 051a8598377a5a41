"""Published training methods, a file or a folder each; importing this package fills ``narrowgauge.train.METHODS``.

Every module of the folder is imported, so that a new file is all that a new method needs. Packages of other people
may add theirs: an entry point of the group ``narrowgauge.methods`` names a module to import.
"""

from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

for _module in sorted(module.name for module in iter_modules(__path__)):
    import_module(f"{__name__}.{_module}")
for _entry in entry_points(group="narrowgauge.methods"):
    import_module(_entry.module)
