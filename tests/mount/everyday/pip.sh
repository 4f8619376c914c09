# A virtual environment with pip, which installs a source distribution and a wheel: packages without dependencies, so that no
# index is asked.
"$PYTHON" -m venv environment
mkdir -p source/built
cat >source/pyproject.toml <<'SETTINGS'
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
SETTINGS
cat >source/backend.py <<'BACKEND'
import os, tarfile, zipfile

ABOUT = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
FILES = {
    "tiny/__init__.py": "def main():\n    print('tiny runs')\n",
    "tiny-1.0.dist-info/METADATA": ABOUT,
    "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tiny\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "tiny-1.0.dist-info/entry_points.txt": "[console_scripts]\ntiny = tiny:main\n",
}


def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "tiny-1.0-py3-none-any.whl"
    record = "".join(f"{path},,\n" for path in (*FILES, "tiny-1.0.dist-info/RECORD"))
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        for path, text in {**FILES, "tiny-1.0.dist-info/RECORD": record}.items():
            wheel.writestr(path, text)
    return name


def build_sdist(directory, config_settings=None):
    name = "tiny-1.0.tar.gz"
    with open("PKG-INFO", "w") as about:
        about.write(ABOUT)
    with tarfile.open(os.path.join(directory, name), "w:gz") as archive:
        for path in ("pyproject.toml", "backend.py", "PKG-INFO"):
            archive.add(path, f"tiny-1.0/{path}")
    return name
BACKEND
(cd source && "$PYTHON" -c 'import backend; backend.build_sdist("built"); backend.build_wheel("built")')
unset PYTHONPATH # packages of the tests, which pip would check as well
export TMPDIR=$PWD/temporary PIP_CACHE_DIR=$PWD/cache PIP_DISABLE_PIP_VERSION_CHECK=1
mkdir "$TMPDIR"
for package in source/built/tiny-1.0.tar.gz source/built/tiny-1.0-py3-none-any.whl; do
    environment/bin/python -m pip install -q --no-index "$package"
    [ "$(environment/bin/tiny)" = "tiny runs" ]
    environment/bin/python -m pip check -q
    environment/bin/python -m pip uninstall -qy tiny
    [ ! -e environment/bin/tiny ]
done
[ -z "$(ls -A "$TMPDIR")" ]
