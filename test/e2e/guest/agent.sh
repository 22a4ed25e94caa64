# Runs what the test sends over the virtio-serial port "agent". A request is a line "ID SCRIPT", the script in base64;
# the answer is a line "ID STATUS STDOUT STDERR", both texts in base64, "-" for an empty one. Requests run side by side.
for port in /sys/class/virtio-ports/*; do
  [ "$(cat "$port/name")" = agent ] && device=/dev/${port##*/}
done
exec 3<>"$device"
mkdir -p /run/agent

encode() {
  if [ -s "$1" ]; then base64 -w 0 "$1"; else printf -- -; fi
}

execute() {
  base=/run/agent/$1
  echo "agent: [$1] $(head -n 1 "$base.sh")"
  bash -eu -o pipefail "$base.sh" >"$base.out" 2>"$base.err" </dev/null 3>&-
  status=$?
  tail -c 2000 "$base.out"
  tail -c 2000 "$base.err"
  echo "agent: [$1] status $status after $(cut -d' ' -f1 /proc/uptime) s of guest time"
  (
    flock 4
    printf '%s %s ' "$1" "$status" >&3
    encode "$base.out" >&3
    printf ' ' >&3
    encode "$base.err" >&3
    printf '\n' >&3
  ) 4>/run/agent/lock
  rm -f "$base.sh" "$base.out" "$base.err"
}

echo "hello $(cat /proc/sys/kernel/random/boot_id)" >&3
while read -r id script <&3; do
  echo "$script" | base64 -d >"/run/agent/$id.sh"
  execute "$id" &
done
