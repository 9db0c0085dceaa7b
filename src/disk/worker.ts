import { serveTasks } from './tasks.js';

serveTasks();
