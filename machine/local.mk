# Files of machine/.
