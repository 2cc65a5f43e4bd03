// Loaded before redis-commander, which by itself listens on a port only. There, every user of the host could come past
// nginx and its password. systemd makes the socket instead, and says who may open it.
'use strict';

const { Server } = require('http');

const { listen } = Server.prototype;
const FIRST_FROM_SYSTEMD = 3;

Server.prototype.listen = function (port, address, ready) {
  return listen.call(this, { fd: FIRST_FROM_SYSTEMD }, ready);
};
