#!/usr/bin/env bash
# Runs a job's command on one worker, apart from the connection that started it.
#
#   run_worker.sh start NAME ATTEMPT TREE COMMAND...   start once; again: nothing
#   run_worker.sh status NAME                          one line, for a program to read
#   run_worker.sh logs NAME LINES                      the end of the log
#   run_worker.sh stop NAME                            SIGTERM: the command saves, ends
#   run_worker.sh kill NAME                            SIGKILL, where that did not help
#
# Everything is kept in $NEUROFM_LAUNCH_HOME/NAME (default ~/neurofm-launch/NAME): `run`
# (attempt, pid, when the process started), tree, log and code. TREE is the hash of the
# code, or `-` to run in the folder where this was called. A file `env` is read once and
# removed.
set -u

verb=$1 name=$2
home=${NEUROFM_LAUNCH_HOME:-$HOME/neurofm-launch}
folder=$home/$name
attempt=0 pid=0 started=

look() { [ ! -f "$folder/run" ] || read -r attempt pid started <"$folder/run"; }

# A pid may be given to another process later, so the time of its start tells it apart.
alive() {
  [ -n "$started" ] && [ -r "/proc/$pid/stat" ] &&
    [ "$(sed 's/.*) //' "/proc/$pid/stat" | cut -d' ' -f20)" = "$started" ]
}

# The supervisor holds the lock; the command may outlive it.
running() { alive || ! flock -n "$folder/lock" true; }

state() {
  if [ ! -f "$folder/run" ]; then echo absent
  elif [ -f "$folder/code" ]; then echo exited
  elif running; then echo running
  elif [ -f "$folder/code" ]; then echo exited # it ended while we looked
  else echo lost
  fi
}

case $verb in
start)
  new=$3 tree=$4
  shift 4
  mkdir -p "$folder"
  exec 8>"$folder/start"
  flock 8 # of two starts at once, the second finds the work of the first
  look
  if [ "$attempt" -ge "$new" ]; then
    rm -f "$folder/env"
    echo "neurofm-worker: attempt $new of $name was started before"
    exit 0
  fi
  if [ "$attempt" -gt 0 ] && running; then
    echo "neurofm-worker: attempt $attempt of $name still runs" >&2
    exit 70
  fi
  if [ "$tree" != - ]; then
    cd "$home/$tree" || exit 70
    export PATH="$home/venv-$tree/bin:$PATH"
  fi
  if [ -f "$folder/env" ]; then
    # shellcheck disable=SC1091 # it comes with the start
    . "$folder/env"
    rm -f "$folder/env"
  fi
  [ ! -f "$folder/log" ] || mv -f "$folder/log" "$folder/log.before"
  rm -f "$folder/code" "$folder/run"
  printf '%s' "$tree" >"$folder/tree"
  # A session of its own outlives the connection. It starts the command and writes how
  # that ended.
  # shellcheck disable=SC2016 # meant for the inner shell
  setsid bash -c '
    folder=$1 attempt=$2
    shift 2
    exec 9>"$folder/lock" && flock 9
    "$@" 9>&- &
    pid=$!
    started=$(sed "s/.*) //" "/proc/$pid/stat" 2>/dev/null | cut -d" " -f20)
    echo "$attempt $pid $started" >"$folder/.run" && mv "$folder/.run" "$folder/run"
    wait "$pid"
    printf "%s" "$?" >"$folder/.code" && mv "$folder/.code" "$folder/code"
  ' neurofm-worker "$folder" "$new" "$@" >"$folder/log" 2>&1 </dev/null 8>&- &
  until [ -f "$folder/run" ]; do sleep 0.05; done
  echo "neurofm-worker: started attempt $new of $name"
  ;;
status)
  look
  now=$(state)
  code=- step= tree=-
  [ ! -f "$folder/tree" ] || tree=$(cat "$folder/tree")
  [ "$now" != exited ] || code=$(cat "$folder/code")
  [ ! -f "$folder/log" ] ||
    step=$(tail -c 65536 "$folder/log" | grep -aoE 'step [0-9]+' | tail -n 1)
  echo "neurofm-worker host=$(hostname) state=$now attempt=$attempt tree=$tree" \
    "code=$code step=${step#step }"
  ;;
logs)
  [ ! -f "$folder/log" ] || tail -n "$3" "$folder/log"
  ;;
stop | kill)
  signal=TERM
  [ "$verb" = stop ] || signal=KILL
  look
  if alive && kill -s "$signal" "$pid"; then
    echo "neurofm-worker: sent SIG$signal to $name"
  else
    echo "neurofm-worker: $name does not run"
  fi
  ;;
*)
  echo "run_worker.sh: there is no '$verb': give start, status, logs, stop or kill" >&2
  exit 1
  ;;
esac
