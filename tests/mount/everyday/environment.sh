# A virtual environment, and a program that it makes.
unset PYTHONDONTWRITEBYTECODE
"$PYTHON" -m venv --without-pip --symlinks environment
environment/bin/python -c 'import json, sys; assert sys.prefix.endswith("environment")'
mkdir environment/package
printf 'def say():\n    print("said")\n' >environment/package/__init__.py
cd environment
[ "$(bin/python -c "import package; package.say()")" = said ]
ls package/__pycache__/__init__.*.pyc
printf 'def say():\n    print("said otherwise")\n' >package/__init__.py
[ "$(bin/python -c "import package; package.say()")" = "said otherwise" ]
bin/python -m compileall -q package
