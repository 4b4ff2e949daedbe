# What the commands of packaging/, tests/ and tests/bench/ share: packages, users and the build.
# To be sourced by bash.

ECS_BUILD_PACKAGES="gcc make autoconf automake pkg-config git ca-certificates libc6-dev linux-libc-dev
	libcurl4-openssl-dev libwslay-dev libjson-c-dev libsystemd-dev libcap-dev libseccomp-dev
	libsqlite3-dev libarchive-dev zlib1g-dev libzstd-dev libisal-dev libssl-dev libnl-route-3-dev
	libnftables-dev libmicrohttpd-dev libcmocka-dev"
ECS_DEB_PACKAGES="debhelper dpkg-dev fakeroot"
ECS_RPM_PACKAGES="rpm"
# The stand-in for AWS, a registry, and an image to run.
ECS_STANDIN_PACKAGES="python3 python3-aiohttp python3-botocore python3-cryptography docker-registry
	skopeo iproute2 nftables util-linux"
ECS_TEST_PACKAGES="python3-pytest python3-pytest-xdist python3-boto3 awscli umoci mmdebstrap clang-format
	libarchive-tools zstd attr acl libcap2-bin procps curl strace xfsprogs btrfs-progs mandoc zsh systemd
	lintian shellcheck logrotate binutils"
# A host of its own for the package: tests/vm.
ECS_VM_PACKAGES="qemu-system-x86 qemu-utils mmdebstrap e2fsprogs libarchive-tools openssh-client
	python3-pytest python3-pytest-xdist"

# Debian's Python: pip and pyenv versions lack its modules.
ECS_PYTHON=/usr/bin/python3

ecs_say() { printf '%s\n' "$*" >&2; }

# Packages that are missing, all others are left alone.
ecs_install() {
	local missing=() p
	for p in "$@"; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
	done
	[ ${#missing[@]} -eq 0 ] && return 0
	ecs_say "Installing ${missing[*]}"
	apt-get update -qq && ecs_install_quietly "${missing[@]}"
}

# Services that packages bring must start neither now nor at the next boot: a registry of ours does.
# In a shell of its own, whose traps put things right whatever ends the command in the middle.
ecs_install_quietly() (
	policy=/usr/sbin/policy-rc.d made='' before=$(ecs_boot_services)
	clean_up() {
		local unit
		[ -z "$made" ] || rm -f "$policy"
		for unit in $(comm -13 <(echo "$before") <(ecs_boot_services)); do
			ecs_say "Not to be started at boot: $unit"
			systemctl --quiet disable "$unit"
		done
	}
	trap clean_up EXIT
	trap 'exit 130' HUP INT TERM
	if [ ! -e "$policy" ]; then
		made=1
		printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" || exit
	fi
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
)

# Services and sockets that systemd starts at boot, where this host is run by it.
ecs_boot_services() {
	[ ! -d /run/systemd/system ] || find /etc/systemd/system -mindepth 2 -type l \
		\( -name '*.service' -o -name '*.socket' \) -printf '%f\n' | sort -u
}

# ecs_busybox DIR: the static busybox that images are made of, as ECS_BUSYBOX. It conflicts with the
# package busybox, so where that is installed the static one is only unpacked into DIR.
ecs_busybox() {
	export ECS_BUSYBOX=/bin/busybox
	if [ "$(dpkg-query -W -f '${db:Status-Status}' busybox 2>/dev/null)" != installed ]; then
		ecs_install busybox-static
		return
	fi
	mkdir -p "$1" && (cd "$1" && { apt-get download -qq busybox-static 2>/dev/null ||
		{ apt-get update -qq && apt-get download -qq busybox-static; }; } &&
		dpkg-deb -x busybox-static_*.deb .) >&2 || return
	ECS_BUSYBOX=$(find "$1" -path '*bin/busybox' -type f | head -1)
}

ECS_USERS="ecs-agent ecs-image ecs-metadata ecs-logs"
ECS_USERS_MADE=

# System users of the daemons; ecs_remove_users takes away those made here.
ecs_make_users() {
	local u
	for u in $ECS_USERS; do
		getent passwd "$u" >/dev/null && continue
		useradd --system --user-group --no-create-home --home-dir /nonexistent \
			--shell /usr/sbin/nologin "$u" || return
		ECS_USERS_MADE="$ECS_USERS_MADE $u"
	done
}

ecs_remove_users() {
	local u
	for u in $ECS_USERS_MADE; do
		userdel "$u" 2>/dev/null
	done
	ECS_USERS_MADE=
}

# ecs_source TOP COPY [VERSION]: a copy of the sources with ./configure made, so that nothing of root's
# is left in a user's clone. The version is what the programs built from it report.
ecs_source() {
	local top=$1 copy=$2 version=${3:-}
	ECS_VERSION_HASH=$(git -c safe.directory="$top" -C "$top" rev-parse --short=8 HEAD 2>/dev/null)
	[ -z "$ECS_VERSION_HASH" ] || export ECS_VERSION_HASH
	mkdir -p "$copy" && tar -C "$top" --exclude=./.git -c . | tar -C "$copy" -x --no-same-owner &&
		{ [ -z "$version" ] ||
			sed -i "s/^AC_INIT(.*/AC_INIT([ecs-agent], [$version])/" "$copy/configure.ac"; } &&
		(cd "$copy" && ./.autogen.sh) >"$copy.autogen.log" 2>&1 || {
		tail -40 "$copy.autogen.log" >&2
		return 1
	}
}

# ecs_build SOURCE BUILD_DIR ROOT [configure options]: build and install under ROOT.
ecs_build() {
	local source=$1 build=$2 root=$3
	shift 3
	mkdir -p "$build" "$root" &&
		(cd "$build" && "$source/configure" --quiet --prefix=/usr --libexecdir=/usr/libexec "$@" \
			>"$build.configure.log" 2>&1) || {
		tail -40 "$build.configure.log" >&2
		return 1
	}
	make -C "$build" -s -j"$(nproc)" install DESTDIR="$root" >"$build.make.log" 2>&1 || {
		tail -60 "$build.make.log" >&2
		return 1
	}
}

# ecs_version TOP: the version of this tree.
ecs_version() {
	sed -n 's/^AC_INIT(\[ecs-agent\], \[\(.*\)\])$/\1/p' "$1/configure.ac" | grep .
}

# ecs_tarball SOURCE DIR: the tarball that "make dist" makes of a copy by ecs_source, as
# DIR/ecs-agent-VERSION.tar.gz.
ecs_tarball() {
	local source=$1 dir=$2
	mkdir -p "$dir" &&
		(cd "$dir" && "$source/configure" --quiet && make -s dist) >"$dir.log" 2>&1 || {
		tail -40 "$dir.log" >&2
		return 1
	}
}
