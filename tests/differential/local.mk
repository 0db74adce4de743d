# Files of tests/differential/.
