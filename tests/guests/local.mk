# Files of tests/guests/.
