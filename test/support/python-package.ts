/** The Debian package of the Python server, version 0.0.4, as far as an upgrade has to do with it: what it leaves. */
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pack } from './debian-packages.js';

const control = `Package: lxd-image-server
Version: 0.0.4
Architecture: all
Maintainer: Somebody Else <nobody@example.org>
Description: image server in Python
`;

const configuration = `# Configuration of the image server
[mirrors]

[logging]
version = 1
disable_existing_loggers = false

[logging.handlers.file]
class = "logging.FileHandler"
filename = "/var/log/lxd-image-server/lxd-image-server.log"
`;

const site = `server {
    listen 8443 ssl;
    server_name localhost;
    ssl_certificate /etc/nginx/ssl/nginx.crt;
    ssl_certificate_key /etc/nginx/ssl/nginx.key;
    root /var/www/simplestreams;
    include /etc/nginx/lxd-image-server/lxd-image-server.pkg.conf;
}
`;

const conffiles: Record<string, string> = {
  '/etc/lxd-image-server/config.toml': configuration,
  '/etc/nginx/sites-available/simplestreams.conf': site,
  '/etc/nginx/lxd-image-server/lxd-image-server.pkg.conf': 'autoindex on;\n',
  '/etc/logrotate.d/lxd-image-server': '/var/log/lxd-image-server/*.log {\n  weekly\n}\n',
};

const postinst = `#!/bin/sh
set -e
id lxdadm >/dev/null 2>&1 || useradd --create-home --home-dir /home/lxdadm --gid www-data --shell /bin/bash lxdadm
mkdir -p /var/www/simplestreams/images /var/www/simplestreams/streams/v1 /var/log/lxd-image-server /etc/nginx/ssl
chown -R lxdadm:www-data /var/www/simplestreams /var/log/lxd-image-server
openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=old.example.org \\
  -keyout /etc/nginx/ssl/nginx.key -out /etc/nginx/ssl/nginx.crt 2>/dev/null
chmod 0644 /etc/nginx/ssl/nginx.key
ln -sf /etc/nginx/sites-available/simplestreams.conf /etc/nginx/sites-enabled/simplestreams.conf
systemctl reload nginx
`;

/** Builds it in `folder`; gives the path of its file. */
export async function buildPythonPackage(folder: string): Promise<string> {
  const content = join(folder, 'python');
  const files = {
    ...conffiles,
    '/DEBIAN/control': control,
    '/DEBIAN/conffiles': Object.keys(conffiles)
      .map((path) => `${path}\n`)
      .join(''),
  };
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(content, path)), { recursive: true });
    await writeFile(join(content, path), text);
  }
  await writeFile(join(content, 'DEBIAN/postinst'), postinst, { mode: 0o755 });
  return await pack(content, join(folder, 'lxd-image-server_0.0.4_all.deb'));
}
