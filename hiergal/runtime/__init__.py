"""Foundations of the package: ownership of outputs, whole files, and resumed runs.

=================================  =================================================================================
:mod:`~hiergal.runtime.output`    one file or folder that a run writes whole, or not at all
:mod:`~hiergal.runtime.folder`    a folder of a run, of which some names are the run's
:mod:`~hiergal.runtime.identity`  what a run is
:mod:`~hiergal.runtime.work`      the parts of a run, and how its result takes its place
:mod:`~hiergal.runtime.marks`     what tells a result of hiergal from the files of others
:mod:`~hiergal.runtime.files`     locks, and renames that are whole or not there
=================================  =================================================================================
"""

from hiergal.runtime.namespace import submodules

__all__: list[str] = []

__getattr__ = submodules(__name__)
