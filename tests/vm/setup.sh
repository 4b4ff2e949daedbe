# What tests/vm/run and tests/vm/shell share. To be sourced by bash.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$top/packaging/setup.sh"

[ "$(id -u)" -eq 0 ] || { ecs_say "$0: must be run as root"; exit 1; }
work=$(mktemp -d /var/tmp/ecs-vm.XXXXXX) && chmod 755 "$work" || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

ecs_install $ECS_STANDIN_PACKAGES $ECS_VM_PACKAGES || exit
[ -n "${ECS_BUSYBOX:-}" ] || ecs_busybox "$work/busybox" || exit
export PYTHONPATH=$top/tests:$top/tests/vm PYTHONDONTWRITEBYTECODE=1

# The packages to test: those in the folder ECS_DEB_DIR, or else built from this tree.
vm_packages() {
	[ -z "${ECS_DEB_DIR:-}" ] || return 0
	ecs_say "Building the package"
	"$top/packaging/build-deb" --no-check --output "$work/deb" >&2 &&
		export ECS_DEB_DIR=$work/deb
}

# A build with the programs that integration tests drive, and an installation of it.
vm_build() {
	[ -z "${ECS_BUILD_DIR:-}" ] || [ -z "${ECS_PROGRAMS:-}" ] || return 0
	ecs_say "Building"
	ecs_install $ECS_BUILD_PACKAGES && ecs_source "$top" "$work/source" &&
		ecs_build "$work/source" "$work/build" "$work/root" CFLAGS='-O2 -g' &&
		make -C "$work/build" -s -j"$(nproc)" check TESTS= >&2 &&
		export ECS_BUILD_DIR=$work/build ECS_PROGRAMS=$work/root/usr/libexec/ecs
}
