#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Makes a disk image with a stock Debian for molt: scripts/make-debian-image.sh --help
#
# Theory of operation: debootstrap makes the base system in a directory, apt in there adds the kernel and what else is
# wanted, and mke2fs -d makes the file system from that directory. So no loop device is needed and the image is never
# mounted; nor is there a boot loader or a partition table, for molt loads kernel and initramfs itself.
#
# All that writes into the directory runs in a mount and process-id name space of its own, where the system lets us:
# then what it mounted and started is gone with it, however it ends. The three files get their names last of all.
set -eu

usage() {
	cat <<-END
	usage: scripts/make-debian-image.sh [options]

	Makes three files: a disk image (one ext4 file system, no partitions) with a stock Debian, and
	its kernel and initramfs, which 'molt run' needs by name. Root logs in on the serial console,
	WITHOUT A PASSWORD unless one is given. No network is configured.

	  --output FILE         the image (default: debian.img); beside it, with the same name up to
	                        the last dot: FILE.vmlinuz, FILE.initrd
	  --force               replace files that are there
	  --owner USER[:GROUP]  who owns the files (default: root), such as the user that molt becomes
	  --suite NAME          Debian release (default: this machine's, if it is a Debian, or stable)
	  --mirror URL          where packages come from (default: what this machine's apt sources
	                        name for Debian, or else what debootstrap takes)
	  --packages A,B,...    packages to add
	  --size SIZE           of the image, such as 900M or 8G (default: 2G); it is a sparse file
	  --hostname NAME       (default: debian)
	  --password-file FILE  root's password is the first line of FILE
	  --cache DIR           where packages are kept for the next time
	                        (default: \${XDG_CACHE_HOME:-~/.cache}/molt/debian)
	  --verbose             show what debootstrap and apt say

	Needs root, about 1.5 GB below \${TMPDIR:-/var/tmp}, and the programs of the Debian packages
	debootstrap and e2fsprogs. A container will do, without loop devices and without mounts.
	Packages are added without those that they only recommend.

	Exit status: 0 the files are there, 1 failure, 2 wrong usage, 128+N ended by signal N.
	END
}

me=make-debian-image
say() { echo "$me: $*"; }
fail() { echo "$me: $*" >&2; exit 1; }
misused() { echo "$me: $*; see --help" >&2; exit 2; }

# ---- options ----

output=debian.img force= owner=0:0 suite= mirror= packages= size=2G hostname=debian password_file= verbose=
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/molt/debian
while [ $# -gt 0 ]; do
	case "$1" in
	--output | --owner | --suite | --mirror | --packages | --size | --hostname | --password-file | --cache)
		[ $# -ge 2 ] || misused "$1 needs a value"
		[ -n "$2" ] || misused "the value of $1 is empty"
		case "$1" in
		--output) output=$2 ;;
		--owner) owner=$2 ;;
		--suite) suite=$2 ;;
		--mirror) mirror=$2 ;;
		--packages) packages="$packages $(echo "$2" | tr , ' ')" ;;
		--size) size=$2 ;;
		--hostname) hostname=$2 ;;
		--password-file) password_file=$2 ;;
		--cache) cache=$2 ;;
		esac
		shift 2 ;;
	--force) force=yes; shift ;;
	--verbose) verbose=yes; shift ;;
	-h | --help) usage; exit 0 ;;
	*) misused "unknown argument '$1'" ;;
	esac
done

matches() { printf '%s\n' "$1" | grep -Eqx "$2"; }
matches "$size" '[1-9][0-9]*[KMGT]' || misused "--size '$size' is not a number with K, M, G or T"
matches "$hostname" '[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?' || misused "--hostname '$hostname' is none"
matches "$packages" '( [a-z0-9][a-z0-9+.:-]*)*' || misused "--packages '${packages# }' are not names of packages"
[ -z "$suite" ] || matches "$suite" '[a-z][a-z-]*' || misused "--suite '$suite' is no name of a release"
[ -z "$mirror" ] || matches "$mirror" '[a-z]+:/[^ ]*' || misused "--mirror '$mirror' is no URL"

# A value of /etc/os-release, in a shell of its own, since that file sets what it likes.
release_value() (
	# shellcheck source=/dev/null
	. /etc/os-release 2>/dev/null || exit 0
	[ "${ID:-}" != debian ] || echo "${VERSION_CODENAME:-}"
)
own_suite=$(release_value)
suite=${suite:-${own_suite:-stable}}

# ---- what has to be there ----

PATH=$PATH:/usr/sbin:/sbin
missing=
for tool in debootstrap mke2fs e2fsck chroot setsid truncate; do
	command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
done
[ -z "$missing" ] || fail "missing:$missing; on Debian: apt-get install debootstrap e2fsprogs util-linux coreutils"
[ "$(id -u)" = 0 ] || fail "has to be run as root: the files in the image belong to many users"
[ -e "/usr/share/debootstrap/scripts/$suite" ] || fail "this machine's debootstrap knows no release '$suite'"
[ -z "$password_file" ] || [ -r "$password_file" ] || fail "cannot read $password_file"

case "${output##*/}" in
*.*) stem=${output%.*} ;;
*) stem=$output ;;
esac
kernel=$stem.vmlinuz initrd=$stem.initrd
for file in "$output" "$kernel" "$initrd"; do
	[ ! -d "$file" ] || fail "$file is a directory"
	[ -z "$force" ] && [ -e "$file" ] && fail "$file is there already; --force replaces it"
done
mkdir -p "$(dirname "$output")" "$cache"
cache=$(cd "$cache" && pwd)

# ---- a place to work, which is gone in the end ----

# What is written into the image is for all of the guest's users, whatever this machine's root keeps to himself.
umask 022
work=$(mktemp -d "${TMPDIR:-/var/tmp}/$me.XXXXXX")
root=$work/root log=$work/log child=
new=.new.$$
end_child() {
	[ -n "$child" ] || return 0
	kill -KILL "-$child" 2>/dev/null || true
	wait "$child" 2>/dev/null || true
	child=
}
clean_up() {
	status=$?
	trap '' HUP INT TERM
	[ "$status" = 0 ] || say "ended early; nothing is left behind" >&2
	end_child
	rm -f "$output$new" "$kernel$new" "$initrd$new"
	# Should anything be mounted in there after all, it is not ours to empty.
	rm -rf --one-file-system "$work"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Now, and not when all else is done.
: >"$work/owned"
why=$(chown "$owner" "$work/owned" 2>&1) || fail "--owner $owner: ${why#chown: }"

for isolate in "unshare --mount --propagation private --pid --kill-child --mount-proc" ""; do
	# shellcheck disable=SC2086 # a list of words
	[ -z "$isolate" ] || ! $isolate true 2>/dev/null || break
done

# Runs a command and keeps what it says. In the background, for then a signal to us is heard at once; in a process
# group of its own, which can be killed as a whole.
run() {
	if [ -n "$verbose" ]; then
		setsid "$@" </dev/null 2>&1 &
	else
		setsid "$@" </dev/null >>"$log" 2>&1 &
	fi
	child=$! status=0
	wait "$child" || status=$?
	child=
	return "$status"
}

# The same with the last lines of what it said and the end of it all, if it fails.
need() {
	what=$1
	shift
	echo "--- $what" >>"$log"
	run "$@" && return 0
	[ -n "$verbose" ] || tail -n 15 "$log" | sed 's/^/    /' >&2
	fail "$what failed"
}

# Some packages' configuration wants /proc and POSIX shared memory. Where there is no name space to mount them in they
# have to do without.
# shellcheck disable=SC2016 # expanded by that shell
enter='if [ "$0" != "" ]; then
	mountpoint -q "$1/proc" || mount -t proc proc "$1/proc"
	mkdir -p "$1/dev/shm" && mount -t tmpfs tmpfs "$1/dev/shm"
fi
exec chroot "$@"'
in_root() {
	what=$1
	shift
	# shellcheck disable=SC2086 # a list of words
	need "$what" $isolate sh -c "$enter" "$isolate" "$root" /usr/bin/env -i LC_ALL=C.UTF-8 HOME=/root \
		PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"
}

# ---- where packages come from ----

# "URL SUITE" a line: what this machine's apt sources name for its own release, made that of the wanted one.
machine_sources() {
	[ -n "$own_suite" ] && command -v apt-get >/dev/null 2>&1 || return 0
	# shellcheck disable=SC2016 # expanded by apt
	apt-get indextargets --no-release-info --format '$(CREATED_BY) $(COMPONENT) $(RELEASE) $(REPO_URI)' |
		while read -r kind component release url; do
			case "$kind $component $release" in
			"Packages main $own_suite" | "Packages main $own_suite-security" | "Packages main $own_suite-updates") ;;
			*) continue ;;
			esac
			case "$url" in
			http://* | https://*) echo "$url $suite${release#"$own_suite"}" ;;
			esac
		done | awk '!seen[$0]++'
}
if [ -n "$mirror" ]; then
	sources="$mirror $suite"
else
	sources=$(machine_sources)
	case "$suite" in
	sid | unstable | testing) sources=$(echo "$sources" | grep " $suite\$" || true) ;;
	esac
	mirror=$(echo "$sources" | sed -n "s/ $suite\$//p" | head -n 1)
fi

# ---- the system ----

say "1/5 base system: Debian $suite"
include=
case "$sources" in *https:*) include=--include=ca-certificates ;; esac
# shellcheck disable=SC2086 # lists of words
need debootstrap $isolate debootstrap --arch=amd64 --force-check-gpg --cache-dir="$cache" $include \
	"$suite" "$root" ${mirror:+"$mirror"}

say "2/5 packages: linux-image-cloud-amd64$packages"
if [ -n "$mirror" ]; then
	echo "$sources" | sed '/./s/^\([^ ]*\) \(.*\)$/deb \1 \2 main/' >"$root/etc/apt/sources.list"
fi
# What this machine's apt needs for the way to the mirror, such as a proxy, that in the image needs as well; but not a
# program that it would ask.
ours=$root/etc/apt/apt.conf.d/99$me
if command -v apt-config >/dev/null 2>&1; then
	apt-config dump --format '%f "%v";%n' Acquire | grep -v -i -e proxy-auto-detect -e '::ca' >"$ours" || true
fi
# Nothing is started in there.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
uuid=$(cat /proc/sys/kernel/random/uuid)
echo "UUID=$uuid / ext4 errors=remount-ro 0 1" >"$root/etc/fstab"
# Or the initramfs would get no fsck: what its maker finds as / here is the directory's file system.
mkdir -p "$root/etc/initramfs-tools/conf.d"
echo FSTYPE=ext4 >"$root/etc/initramfs-tools/conf.d/root-file-system"
echo "$hostname" >"$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n127.0.1.1\t%s\n::1\tlocalhost\n' "$hostname" >"$root/etc/hosts"

archives=$root/var/cache/apt/archives
copy_missing() {
	for deb in "$1"/*.deb; do
		[ ! -e "$deb" ] || [ -e "$2/${deb##*/}" ] || cp "$deb" "$2/"
	done
}
copy_missing "$cache" "$archives"
in_root "apt-get update" apt-get -q update
in_root "apt-get dist-upgrade" apt-get -q -y -o APT::Keep-Downloaded-Packages=true dist-upgrade
# shellcheck disable=SC2086 # a list of words
in_root "apt-get install" apt-get -q -y --no-install-recommends -o APT::Keep-Downloaded-Packages=true \
	install linux-image-cloud-amd64 $packages
copy_missing "$archives" "$cache"

say "3/5 login and configuration"
if [ -n "$password_file" ]; then
	(printf 'root:'; head -n 1 "$password_file") | chroot "$root" chpasswd || fail "cannot set the password"
else
	in_root passwd passwd -d root
fi
in_root "apt-get clean" apt-get -q clean
rm -f "$ours" "$root/usr/sbin/policy-rc.d" "$root/etc/resolv.conf" "$root/var/lib/dbus/machine-id"
find "$root/var/lib/apt/lists" "$root/var/log" "$root/run" "$root/tmp" "$root/var/tmp" -mindepth 1 ! -type d -delete
# Empty and not missing: each guest makes one of its own, but nothing is asked at the first boot.
: >"$root/etc/machine-id"

# ---- the files ----

say "4/5 kernel and initramfs"
for found in "$root"/boot/vmlinuz-*; do
	version=${found##*/vmlinuz-}
done
[ -e "$root/boot/initrd.img-$version" ] || fail "the packages brought no kernel with an initramfs"
cp "$root/boot/vmlinuz-$version" "$kernel$new"
cp "$root/boot/initrd.img-$version" "$initrd$new"
chmod 644 "$kernel$new" "$initrd$new"

say "5/5 file system of $size, with $(du -sm "$root" | cut -f 1) MB in it"
truncate -s "$size" "$output$new"
chmod 600 "$output$new"
need "mke2fs (is --size $size large enough?)" mke2fs -q -F -t ext4 -L root -U "$uuid" -d "$root" "$output$new"
need "the new file system's check" e2fsck -f -n "$output$new"
chown "$owner" "$output$new" "$kernel$new" "$initrd$new"
mv "$kernel$new" "$kernel"
mv "$initrd$new" "$initrd"
mv "$output$new" "$output"
say "$output, Linux $version; to boot it:"
cat <<END
molt run --cpus 2 --memory 1G --kernel $kernel --initramfs $initrd \\
    --disk path=$output --cmdline "root=/dev/vda rw console=ttyS0"
END
