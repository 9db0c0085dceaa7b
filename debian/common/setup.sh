# shellcheck shell=sh
# What both packages set up, for their maintainer scripts. Whatever is there already is left as it is.

# Whatever that of who installs: nginx and sshd read what is made here.
umask 022

tree=/var/www/simplestreams
account=lxdadm
settings=/etc/lxd-image-server

# The account: no password, no shell. Its group lets nginx read; the group of its own name is the daemon's.
make_account() {
  getent group "$account" >/dev/null || addgroup --quiet --system "$account"
  if ! getent passwd "$account" >/dev/null; then
    adduser --quiet --system --no-create-home --home "/var/lib/$account" --ingroup www-data --gecos 'Image server' \
      --shell /usr/sbin/nologin "$account"
  fi
  # After a purge the account is still there, and its home is not.
  if test "$(getent passwd "$account" | cut -d: -f6)" = "/var/lib/$account"; then
    make_folder 0750 "$account" www-data "/var/lib/$account"
  fi
  # Locked, so that no password fits, and not disabled, so that keys do.
  case "$(getent shadow "$account" | cut -d: -f2)" in
    '!'*) usermod --password '*' "$account" ;;
  esac
  id -nG "$account" | grep -qw "$account" || adduser --quiet "$account" "$account"
}

# make_folder MODE OWNER GROUP PATH
make_folder() {
  test -e "$4" || install -d -m "$1" -o "$2" -g "$3" "$4"
}

make_tree() {
  make_folder 0755 root root /var/www
  # A new disk that is mounted there belongs to root.
  if test -d "$tree" && ! test -e "$tree/images" && test "$(stat -c %u "$tree")" = 0; then
    chown "$account:www-data" "$tree"
  fi
  for folder in "$tree" "$tree/images" "$tree/streams" "$tree/streams/v1"; do
    make_folder 0755 "$account" www-data "$folder"
  done
}

# The keys that may log in; only an administrator writes them.
make_authorized_keys() {
  make_folder 0755 root root "$settings"
  if ! test -e "$settings/authorized_keys"; then
    echo '# One public key a line: who may write to the images over SFTP.' >"$settings/authorized_keys"
  fi
}

tls_key=/etc/nginx/ssl/nginx.key
tls_certificate=/etc/nginx/ssl/nginx.crt

# The daemon reads the key, and nginx as root; nobody else does. The Python server left it open to everyone. Keys of
# other owners are their owners' affair.
share_tls_key() {
  if test -f "$tls_key" && test "$(stat -c '%u:%g' "$tls_key")" = 0:0; then
    chgrp "$account" "$tls_key"
    chmod 0640 "$tls_key"
  fi
}

# For the purge: it takes away the pair that was made here, and no other that has come in its place.
remember_certificate() {
  sha256sum "$tls_key" "$tls_certificate" >"$settings/certificate.sha256"
}

site=/etc/nginx/sites-available/lxd-image-server
enabled=/etc/nginx/sites-enabled/lxd-image-server

# nginx 1.25.1 and later want HTTP/2 on a line of its own, which those before do not know.
suit_nginx() {
  version=$(nginx -v 2>&1 | sed -n 's|^nginx version: nginx/\([0-9.]*\).*|\1|p')
  if dpkg --compare-versions "$version" ge 1.25.1; then
    sed -i -e 's/^\( *listen .* ssl\) http2;/\1;/' -e 's/^\( *\)listen 443 ssl;/\1http2 on;\n&/' "$site"
  fi
}

# is_running UNIT
is_running() {
  test -d /run/systemd/system && systemctl --quiet is-active "$1"
}

# Has sshd take its new part, unless an administrator's part of the configuration is broken.
reload_sshd() {
  if is_running ssh.service && sshd -t; then deb-systemd-invoke reload ssh.service || true; fi
}

reload_nginx() {
  if is_running nginx.service && nginx -t -q; then deb-systemd-invoke reload nginx.service || true; fi
}
