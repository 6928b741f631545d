# Shared by the scripts of kind/ and images/: messages, checks, the cache, locks, packages. Sourced, never run.
# shellcheck shell=bash disable=SC2034  # what it sets is read by those scripts

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=versions.env
source "$ROOT/kind/versions.env"

CACHE=${FLOTILLA_CACHE:-$HOME/.cache/flotilla}
BIN=$CACHE/bin
CLUSTER=${KIND_CLUSTER_NAME:-flotilla}
CONTEXT=kind-$CLUSTER
NODE=$CLUSTER-control-plane
mkdir -p "$BIN" "$CACHE/images" "$CACHE/locks" "$CACHE/logs"
# At the end, the places where Go and Rust are installed by their own makers and which no login shell may have added.
export FLOTILLA_CACHE=$CACHE PATH=$BIN:$PATH:/usr/local/go/bin:$HOME/.cargo/bin
# The seconds in messages count from the outermost script, so that a log of nested scripts reads as one clock.
export FLOTILLA_STARTED=${FLOTILLA_STARTED:-$(date +%s)}

log() { printf '[%4ds] %s: %s\n' "$(($(date +%s) - FLOTILLA_STARTED))" "${0#"$ROOT/"}" "$*" >&2; }

# die WHAT [WHAT TO DO]
die() {
  log "error: $1"
  [ $# -lt 2 ] || printf '        %s\n' "$2" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# lock NAME: one run at a time of what NAME guards, until this script ends. Detached children must close fd 9.
lock() {
  exec 9>"$CACHE/locks/$1"
  flock -n 9 && return
  log "waiting for another run ($1)"
  flock -w 3600 9 || die "another run holds $CACHE/locks/$1 for over an hour" "find it with: fuser $CACHE/locks/$1"
}

# every SECONDS MESSAGE -- COMMAND...: runs the command with its output in a log file and says now and then that it still runs.
every() {
  local seconds=$1 message=$2 output pid next=0 status=0
  shift 3
  output=$CACHE/logs/$(tr -c 'a-zA-Z0-9.\n' - <<<"$message").log
  log "$message"
  "$@" >"$output" 2>&1 </dev/null &
  pid=$!
  trap 'kill "$pid" 2>/dev/null; exit 130' INT TERM
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.5
    next=$((next + 1))
    [ $((next % (seconds * 2))) -ne 0 ] || log "$message: still at it (log: $output)"
  done
  wait "$pid" || status=$?
  trap - INT TERM
  [ "$status" -eq 0 ] && return
  tail -n 25 "$output" >&2
  log "$message: failed with status $status; the whole log is $output"
  return "$status"
}

# quietly COMMAND...: shows what the command wrote only where it failed.
quietly() {
  local output
  output=$("$@" 2>&1) || { printf '%s\n' "$output" >&2; return 1; }
}

can_apt() { have apt-get && [ "$(id -u)" -eq 0 ]; }

# apt_install PACKAGE...: installs Debian packages without asking, or says what the user must install.
apt_install() {
  can_apt || die "these packages are missing: $*" "install them, or run as root on Debian or Ubuntu so that this script can"
  export DEBIAN_FRONTEND=noninteractive
  # A fresh machine has no package lists, and an old one's may name versions that are gone.
  if compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null; then
    every 30 "installing $*" -- apt-get install -y -q --no-install-recommends "$@" && return
  fi
  every 30 "refreshing the package lists" -- apt-get update -q || true
  every 30 "installing $*" -- apt-get install -y -q --no-install-recommends "$@" ||
    die "apt-get could not install: $*" "read the lines above; a mirror that can't be reached is the usual cause"
}

# need COMMAND PACKAGE: makes sure the command is there.
need() { have "$1" || apt_install "$2"; have "$1" || die "$1 is still missing after installing $2"; }

# hash_of FILE...: eight hex digits that change with the files' contents and with the Debian release.
hash_of() { { echo "$DEBIAN_SUITE" && cat "$@"; } | sha256sum | cut -c1-8; }

# pulled IMAGE: true where the image is in the engine or can be had from a registry; a registry that is not there costs at most 20 s.
pulled() {
  docker image inspect "$1" >/dev/null 2>&1 && return
  [ "${FLOTILLA_OFFLINE:-}" != true ] || return 1
  timeout 20 docker manifest inspect "$1" >/dev/null 2>&1 || { log "$1 can't be pulled here"; return 1; }
  every 20 "pulling $1" -- timeout 1200 docker pull -q "$1"
}

# k ARGS...: kubectl on the test cluster, never on whatever context the user has chosen.
k() { kubectl --context "$CONTEXT" "$@"; }

# Charts and images keep their version while they are worked on, so the pods carry the image's id: they are replaced when,
# and only when, the image is another one.
# CHART_SETTING, if any, is one more setting of the operator's chart, as helm takes it with --set.
install_charts() {
  local id
  id=$(docker image inspect -f '{{.Id}}' flotilla/operator:0.1.0 | cut -d: -f2 | cut -c1-12)
  local install=(helm --kube-context "$CONTEXT" -n flotilla-system upgrade --install --create-namespace --wait --timeout 5m)
  log "installing the charts"
  "${install[@]}" flotilla-crds "$ROOT/charts/flotilla-crds" >/dev/null ||
    die "the chart of the CRDs could not be installed" "its message is above"
  "${install[@]}" flotilla "$ROOT/charts/flotilla" --set-string "podAnnotations.flotilla\.dev/image=$id" ${CHART_SETTING:+--set "$CHART_SETTING"} >/dev/null || {
    k -n flotilla-system get pods -o wide >&2 || true
    k -n flotilla-system logs -l app.kubernetes.io/instance=flotilla --prefix --tail=30 >&2 || true
    die "the operator did not become ready" "look at: kubectl --context $CONTEXT -n flotilla-system logs -l app.kubernetes.io/instance=flotilla --prefix"
  }
}
