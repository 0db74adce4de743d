# Files of proto/.
