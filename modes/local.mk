# Files of modes/.
