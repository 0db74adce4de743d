# Files of bench/.
