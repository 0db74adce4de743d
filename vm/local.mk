# Files of vm/.
