// Loaded before redis-commander, whose settings have a certificate authority as text only. This reads its file for each
// connection to Redis, so that another authority needs no restart, and trusts no other.
'use strict';

const fs = require('fs');
const tls = require('tls');

const { connect } = tls;

tls.connect = function (options, ...others) {
  return connect.call(this, { ...options, ca: fs.readFileSync(process.env.REDIS_CA_FILE) }, ...others);
};
