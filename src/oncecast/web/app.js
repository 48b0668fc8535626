// The page: publish and find events, and show the broadcast, dead letters, conflicts and the system. This module connects its parts.

import { startAccess } from "./access.js";
import { startBroadcast } from "./broadcast.js";
import { startComposer } from "./composer.js";
import { startConflicts } from "./conflicts.js";
import { startDeadLetters } from "./dead_letters.js";
import { startFailing } from "./failing.js";
import { startFind } from "./find.js";
import { startSystem } from "./system.js";

startAccess();
const broadcast = startBroadcast();
const composer = startComposer(broadcast);
const deadLetters = startDeadLetters();
const conflicts = startConflicts();
startFind();
const failing = startFailing({ onReplayed: deadLetters.refresh });
await startSystem({
  onStatus(status) {
    composer.follow(status);
    failing.follow(status);
    deadLetters.follow(status);
    conflicts.follow(status);
  },
});
broadcast.connect(); // after the first status: now the page knows whether reading needs a token
