// The page: what is published, what is broadcast, how the system is. Each part keeps to itself; they meet here.

import { startBroadcast } from "./broadcast.js";
import { startComposer } from "./composer.js";
import { startSystem } from "./system.js";

const composer = startComposer();
startBroadcast({ onEvents: composer.seen });
startSystem({ onStatus: composer.progressed });
