# Files of daemon/.
