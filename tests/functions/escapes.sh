# Like escapes.py: its pid in the file that the first argument names, then a whole session left behind.
leave_one_behind() {
  ( setsid bash -c 'echo $$ >"$1.new"; mv "$1.new" "$1"; exec sleep 600' - "$1" & )
  while [ ! -e "$1" ]; do sleep 0.01; done
}

if [ "$2" = --lines ]; then
  IFS= read -r frame
  id=${frame#*\"id\":\"}
  leave_one_behind "$1"
  printf '{"id":"%s","response":"answered"}\n' "${id%%\"*}"
else
  leave_one_behind "$1"
  echo '"answered"'
fi
