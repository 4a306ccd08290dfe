#!/bin/sh
# run.sh FUNCTION.awk: awk cannot move its own files. The protocol is on 4 and 3, stdin is empty and stdout is the log.
here=$(dirname "$0")
exec gawk -b -f "$here/json.awk" -f "$here/shim.awk" -f "$1" /dev/fd/4 4<&0 3>&1 </dev/null 1>&2
