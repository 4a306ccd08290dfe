# A bounded bomb: it starts what waits until it may not, which ends this shell, or until there are 400.
started=0
while [ $started -lt 400 ]; do
  sleep 600 &
  started=$((started + 1))
  echo $started >&2
done
echo $started
