"""Builds the C kernels; everything else stands in setup.cfg."""

from pathlib import Path

from cffi import FFI
from setuptools import setup
from setuptools.command.build_ext import build_ext


class BuildKernels(build_ext):
    """Leaves the extension beside its source too.

    ``python -m fedmpi.codedml`` started in a clone imports the clone, not the installed package:
    without this it would run on the slow numpy twin.
    """

    def run(self):
        for stale in Path("fedmpi/core").glob("_compiled.*.so"):  # of an older version, for one Python only
            stale.unlink()
        super().run()
        if self.extensions and all(Path(self.get_ext_fullpath(e.name)).exists() for e in self.extensions):
            self.copy_extensions_to_source()


core = Path("fedmpi/core")
ffi = FFI()
ffi.cdef((core / "_kernels.h").read_text())
ffi.set_source(
    "fedmpi.core._compiled",
    '#include "_kernels.h"',
    sources=[str(core / name) for name in ("_kernels.c", "_gaussian.c", "_perceptron.c", "_packing.c", "_small.c")],
    include_dirs=[str(core)],
    libraries=["m"],
    depends=[str(core / name) for name in ("_kernels.h", "_clones.h")],
    # Sums and products stay apart, as in numpy: fused ones round otherwise. No root of a negative number is asked for.
    extra_compile_args=["-O3", "-ffp-contract=off", "-fno-math-errno"],
    py_limited_api=True,  # one build for all Pythons from 3.11 on
    optional=True,  # without a compiler the numpy twin takes over; `fedmpi doctor` says so
)
setup(
    ext_modules=[ffi.distutils_extension(tmpdir="build")],
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
