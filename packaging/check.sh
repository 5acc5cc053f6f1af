#!/bin/bash
# check.sh DIRECTORY OLDER: checks the packages in a directory. lintian and rpmlint find
# nothing to warn of; no link in a document or in the file system is dead; both kinds of
# package have the same files; and rpm and dpkg install their packages, each in a root of its
# own, after the older ones of another directory, and remove them. The tests of the Python
# package run with what dpkg has installed, service and all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Both change root to run the scripts, so this needs to be root somewhere.
if [[ ${1-} != --as-root ]]; then
    exec unshare --map-root-user --mount packaging/check.sh --as-root "$@"
fi
packages=$(realpath "$2")
older=$(realpath "$3")
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "check-packages: $*" >&2
    exit 1
}

lint() {
    lintian --allow-root --fail-on error,warning --tag-display-limit 0 "$packages"/*.deb
    rpmlint --strict --config packaging/rpmlint.toml "$packages"/*.rpm
}

unpack() {
    local package
    mkdir "$work/deb" "$work/rpm"
    for package in "$packages"/*.deb; do
        dpkg-deb --extract "$package" "$work/deb"
    done
    for package in "$packages"/*.rpm; do
        rpm --checksig --nosignature "$package" >/dev/null
        # Names that begin with "/" would be written into the system by whoever unpacks
        # the package with cpio.
        rpm2cpio "$package" | cpio --list --quiet >"$work/names"
        if grep -v '^\./' "$work/names"; then
            fail "$package has names that do not begin with ./"
        fi
        rpm2cpio "$package" | cpio --extract --make-directories --quiet --directory="$work/rpm"
    done
}

# same_files: what is in the packages of both kinds is the same, wherever it is put.
same_files() {
    (cd "$work/deb" && find . -type f) | sed -E \
        -e 's,/usr/lib/[a-z0-9_]+-linux-gnu/,/usr/lib64/,' -e 's,/vendor-completions/,/site-functions/,' \
        -e 's,/python3/dist-packages/,/python/site-packages/,' \
        -e '/\/lintian\//d' -e '/\/changelog(\.Debian)?\.gz$/d' -e '/\/doc\/[^/]*\/copyright$/d' |
        sort >"$work/deb.files"
    (cd "$work/rpm" && find . -type f) | sed -E -e '/\/licenses\//d' -e '/\/CHANGELOG\.md$/d' \
        -e '/\/__pycache__\//d' -e 's,/python3\.[0-9]+/,/python/,' | sort >"$work/rpm.files"
    diff "$work/deb.files" "$work/rpm.files" || fail 'the packages of dpkg and of rpm have different files'
    grep -q '/site-packages/dlmlock/py\.typed$' "$work/rpm.files" || fail 'there is no py.typed'
    for page in man1/dlmlockctl.1 man8/dlmlockd.8; do
        grep -q "/$page.gz$" "$work/rpm.files" || fail "there is no $page"
    done
    if find "$work/deb" "$work/rpm" ! -type l \( -perm /022 -o ! -uid 0 -o ! -gid 0 \) | grep .; then
        fail 'these do not belong to root, or others may write to them'
    fi
}

# dead_links ROOT: links of the file system, and those of the documents.
dead_links() {
    local document target dead=
    if find "$1" -xtype l | grep .; then
        fail 'these links are dead'
    fi
    while read -r document; do
        while read -r target; do
            target=${target%%#*}
            [[ -z $target || $target == *:* || -e $(dirname "$document")/$target ]] || {
                echo "${document#"$1"}: $target"
                dead=yes
            }
        done < <(grep -oE '(\]\(|(src|srcset|href)=")[^)" ]+' "$document" | sed -E 's/^(\]\(|[a-z]+=")//')
    done < <(find "$1/usr/share/doc" -name '*.md')
    [[ -z $dead ]] || fail 'these links of documents are dead'
}

# userland ROOT: what the scripts of the packages need, and no service manager.
userland() {
    mkdir -p "$1/bin" "$1/dev" "$1/run" "$1/var/lib/rpm"
    : >"$1/dev/null"
    cp /bin/busybox "$1/bin/"
    for program in sh basename cat dirname grep mkdir readlink rm rmdir unlink; do
        ln -s busybox "$1/bin/$program"
    done
    # What dh_apparmor writes calls it with a long option, to make an empty file.
    cat >"$1/bin/install" <<'EOF'
#!/bin/sh
: >"$4"
EOF
    # Python compiles the packages of others; what that leaves would be found after the removal.
    cat >"$1/bin/py3compile" <<'EOF'
#!/bin/sh
mkdir -p /usr/lib/python3/dist-packages/dlmlock/__pycache__
EOF
    cat >"$1/bin/py3clean" <<'EOF'
#!/bin/sh
rmdir /usr/lib/python3/dist-packages/dlmlock/__pycache__
EOF
    chmod 755 "$1/bin/install" "$1/bin/py3compile" "$1/bin/py3clean"
}

# serve ROOT: starts the service that is installed in ROOT, with the engine for one node,
# and returns when it answers. Its pid is in service.
serve() {
    local tries=0
    "$1/usr/sbin/dlmlockd" --engine=local --bus=none --varlink="$work/socket" --config="$work/service.toml" \
        --state-dir="$work/state" 2>>"$work/service.log" &
    service=$!
    until "$1/usr/bin/dlmlockctl" --varlink="$work/socket" status >/dev/null 2>&1; do
        ((++tries < 200)) || fail "the service does not answer: $(cat "$work/service.log")"
        sleep 0.1
    done
}

# python_in ROOT DIRECTORY: the tests of the Python package that is installed in that
# directory of ROOT, with the service that is installed there. One test has it killed.
python_in() {
    local line tests
    echo 'lockspaces = ["vms"]' >"$work/service.toml"
    serve "$1"
    coproc tests {
        PYTHONPATH=$1/$2 PYTHONDONTWRITEBYTECODE=1 DLMLOCK_ADDRESS=$work/socket \
            python3 -W error python/tests/test_lock.py 2>"$work/tests.log" && echo passed
    }
    while read -r line <&"${tests[0]}" && [[ $line != passed ]]; do
        if [[ $line == restart ]]; then
            kill -KILL "$service"
            { wait "$service" || true; } 2>/dev/null # bash says that it was killed
            serve "$1"
            echo restarted >&"${tests[1]}"
        fi
    done
    kill "$service"
    wait "$service" || true
    [[ $line == passed ]] || fail "the tests of the installed Python package say: $(cat "$work/tests.log")"
    (cd / && PYTHONPATH=$1/$2 PYTHONDONTWRITEBYTECODE=1 python3 -c 'import dlmlock; print(dlmlock.__file__)') |
        grep -qx "$1/$2/dlmlock/__init__.py" || fail 'the tests had another Python package'
}

# rpm_in ROOT ARGUMENT...: dependencies are names of another distribution here.
rpm_in() {
    local root=$1
    shift
    rpm --force-debian --root "$root" --dbpath /var/lib/rpm --nodeps "$@"
}

# intact ROOT: every file is there as it was packed, but for the configuration.
intact() {
    if rpm_in "$1" --verify --all | grep -v '^S.5....T\.  c /etc/dlmlockd.toml$'; then
        fail 'these installed files are not as they were packed'
    fi
}

# confine ROOT: an administrator has switched the AppArmor profile on, by a link that is gone
# after the removal.
confine() {
    mkdir -p "$1/etc/apparmor.d"
    ln -s /usr/share/apparmor/extra-profiles/dlmlockd "$1/etc/apparmor.d/dlmlockd"
    [[ -e $1$(readlink "$1/etc/apparmor.d/dlmlockd") ]] || fail 'the AppArmor profile is in another place'
}

# life_of_rpms: a first installation, an upgrade, a removal that is refused and one
# that is not, with each file looked at.
life_of_rpms() {
    local root=$work/root
    userland "$root"
    rpm_in "$root" --install "$older"/*.rpm
    echo '# changed' >>"$root/etc/dlmlockd.toml"
    rpm_in "$root" --upgrade "$packages"/*.rpm
    grep -q '^# changed$' "$root/etc/dlmlockd.toml" || fail 'the upgrade has replaced a changed configuration'
    intact "$root"
    diff <(cd "$work/rpm" && find . ! -type d | sort) <(cd "$root" && find etc usr ! -type d -printf './%p\n' | sort) ||
        fail 'other files were installed than the packages have'
    confine "$root"

    python_in "$root" "$(cd "$root" && echo usr/lib/python3.*/site-packages)"

    mkdir -p "$root/run/dlmlockd"
    touch "$root/run/dlmlockd/state.toml"
    if rpm_in "$root" --erase dlmlockd >"$work/refused" 2>&1; then
        fail 'a package was removed although there may be locks'
    fi
    grep -q '^dlmlockd is not removed: it holds locks' "$work/refused" ||
        fail "the refusal reads: $(cat "$work/refused")"
    intact "$root"

    rm "$root/run/dlmlockd/state.toml"
    rpm_in "$root" --erase dlmlockd dlmlockd-libvirt cockpit-dlmlock python3-dlmlock
    if find "$root/etc" "$root/usr" "$root/run" ! -type d ! -name dlmlockd.toml.rpmsave | grep .; then
        fail 'these files are left after the removal'
    fi
    if find "$root" -name '*dlmlock*' ! -name dlmlockd.toml.rpmsave | grep .; then
        fail 'these directories are left after the removal'
    fi
}

# dpkg_in ROOT ARGUMENT...: nothing that the packages depend on is in that root.
dpkg_in() {
    local root=$1
    shift
    dpkg --root="$root" --force-depends --force-confold --log=/dev/null "$@" \
        >"$work/dpkg" 2>&1 || {
        cat "$work/dpkg" >&2
        return 1
    }
}

# life_of_debs: the same for dpkg, and a purge.
life_of_debs() {
    local root=$work/debian
    userland "$root"
    mkdir -p "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates"
    : >"$root/var/lib/dpkg/status"
    dpkg_in "$root" --install "$older"/*.deb
    echo '# changed' >>"$root/etc/dlmlockd.toml"
    dpkg_in "$root" --install "$packages"/*.deb
    grep -q '^# changed$' "$root/etc/dlmlockd.toml" || fail 'the upgrade has replaced a changed configuration'
    diff <(cd "$work/deb" && find . ! -type d | sort) <(cd "$root" && find etc usr ! -type d -printf './%p\n' |
        grep -v '^./etc/apparmor.d/local/' | sort) || fail 'other files were installed than the packages have'
    if (cd "$root" && md5sum --quiet --check var/lib/dpkg/info/*.md5sums) | grep .; then
        fail 'these installed files are not as they were packed'
    fi
    confine "$root"

    python_in "$root" usr/lib/python3/dist-packages

    mkdir -p "$root/run/dlmlockd"
    touch "$root/run/dlmlockd/state.toml"
    if dpkg_in "$root" --remove cockpit-dlmlock dlmlockd-libvirt dlmlockd 2>"$work/refused"; then
        fail 'a package was removed although there may be locks'
    fi
    grep -q '^dlmlockd is not removed: it holds locks' "$work/refused" ||
        fail "the refusal reads: $(cat "$work/refused")"
    rm "$root/run/dlmlockd/state.toml"
    dpkg_in "$root" --purge cockpit-dlmlock dlmlockd-libvirt python3-dlmlock dlmlockd
    if find "$root" -name '*dlmlock*' ! -path "$root/var/lib/dpkg/*" | grep .; then
        fail 'these are left after the purge'
    fi
}

# First, because rpmlint unpacks with cpio, too.
unpack
lint
same_files
dead_links "$work/deb"
dead_links "$work/rpm"
life_of_rpms
life_of_debs
echo 'check-packages: lintian, rpmlint, files, links, and the life of the packages: nothing found'
