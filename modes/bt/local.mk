# Files of modes/bt/.
